"""One module for each format of file, and how files are written so that a crash never leaves half of one."""
