"""How the models behind the complexity score are trained: corpus, measured targets, networks. Not part of the SDK."""
