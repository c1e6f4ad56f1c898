"""What the workers of one carrier share: whether its store is worth asking, what it can do, what it may cost."""
