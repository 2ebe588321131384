"""The parts of `TreeReceiver`: decisions, content, directories, staging, deletion."""
