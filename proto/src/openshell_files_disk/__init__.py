"""Files and trees on a disk, by descriptors: code that the file agent and the SDK share."""
