"""Generations: adapter revisions in the engine, proved, leased, and moved out for others."""
