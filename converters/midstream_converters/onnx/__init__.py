"""ONNX: read a model, bind fixed values, slice it with the values that inner graphs capture."""
