"""When and where the stages run: Prefect flows over the graph that DVC owns."""
