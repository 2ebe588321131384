"""The local side of trees: the sent directory, the receiving place, the choice of git."""
