"""Model families: one file each. EXPORTS is what every file has, checked when it is loaded."""

EXPORTS = ("HF_MODEL_TYPE", "PRESETS", "TENSOR_MAP", "Model()", "config_from_hf()", "config_to_hf()")
