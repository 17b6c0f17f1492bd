"""Images in files of their own: where each lies, and how they are read and decoded while a net is trained."""
