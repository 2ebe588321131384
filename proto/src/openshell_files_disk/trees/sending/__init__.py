"""The parts of a `TreeSender`: the walk through the tree, and the content of its files."""
