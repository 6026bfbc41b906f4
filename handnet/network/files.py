"""The two files of a model's folder: weights, and what is needed to use them (`handnet.predict.ModelDescription`).

Names alone and without torch, for code that looks whether a model is there.
"""

WEIGHTS_NAME, DESCRIPTION_NAME = "model.safetensors", "model.json"
