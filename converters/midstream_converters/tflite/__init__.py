"""TFLite: read a flatbuffer, slice it without TensorFlow."""
