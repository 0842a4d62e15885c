"""Blind comparison of answers by people, and what their votes come to."""
