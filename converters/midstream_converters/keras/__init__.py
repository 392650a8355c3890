"""Keras models and SavedModels, through TensorFlow into TFLite or ONNX."""
