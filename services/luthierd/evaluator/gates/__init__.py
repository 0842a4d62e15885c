"""Gates: policies, what they can prove on given rows, and what an evaluation says to them."""
