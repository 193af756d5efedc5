"""What the kit costs beside what a user would pick instead: python -m rpo_nb bench."""
