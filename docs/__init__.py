"""The guide's pages, and the site that is made of them and of a finished run."""
