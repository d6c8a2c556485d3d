"""The guide: a tiny chat model that knows only LlamaForge, its text, its training and its honest measure.

The library and the page know nothing of this package: for them the guide is one more model of the config folder.
"""
