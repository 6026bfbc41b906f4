# The project with its environment: flows, stages and Prefect's Kubernetes worker run in it. docs/cluster.md tells how.
#   docker build --tag REGISTRY/handnet:$(git rev-parse --short HEAD) .
# It holds what is committed (.dockerignore): no data, no edits, no secrets. CUDA comes with torch's wheels, the driver from the host.

FROM python:3.11-slim-bookworm AS environment
ARG UV_VERSION=0.13.9
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
WORKDIR /opt/handnet
RUN pip install --no-cache-dir "uv==${UV_VERSION}"
COPY requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    python -m venv .venv && uv pip install --python .venv/bin/python -r requirements.lock

FROM python:3.11-slim-bookworm AS source
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY .git /source/.git
# a clone holds the committed files only; the name of the folder it came from is of no use later
RUN git clone --quiet --depth 1 file:///source /opt/handnet && git -C /opt/handnet remote remove origin

FROM python:3.11-slim-bookworm
# g++ is for `compile: true`; tini passes signals on and collects processes that have ended
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends git g++ make tini && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 handnet && useradd --uid 1000 --gid handnet --create-home handnet \
    && mkdir -p /opt/handnet /var/lib/handnet && chown handnet:handnet /opt/handnet /var/lib/handnet \
    # volumes belong to whom the cluster says; experiments are commits
    && git config --system --add safe.directory '*' \
    && git config --system user.name handnet && git config --system user.email handnet@localhost
USER 1000:1000
WORKDIR /opt/handnet
COPY --from=environment --chown=handnet:handnet /opt/handnet/.venv .venv
COPY --from=source --chown=handnet:handnet /opt/handnet ./
ENV PATH=/opt/handnet/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DVC_NO_ANALYTICS=1 \
    DO_NOT_TRACK=1 \
    DVC_SITE_CACHE_DIR=/tmp/dvc \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# the stamp tells `make` that the environment is there
RUN python -m pip install --quiet --no-cache-dir --no-deps --no-build-isolation --editable . && touch .venv/.complete
# A flow run's command comes from the worker; without one this is the worker itself.
ENTRYPOINT ["tini", "--", "python", "-I", "/opt/handnet/flows/contain.py"]
CMD ["prefect", "worker", "start", "--pool", "cluster", "--type", "kubernetes"]
