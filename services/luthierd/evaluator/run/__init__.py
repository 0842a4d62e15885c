"""One evaluation, or one prompt search, from beginning to end."""
