"""Trees: the sending and the receiving side of UploadTree and DownloadTree on a disk."""
