"""UploadTree and DownloadTree on the disk: the place of a tree, its guard, and the notes of what is staged."""
