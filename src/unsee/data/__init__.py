"""Images, concepts and questions from files: one file per source of data."""
