"""What finished evaluations mean: which way of answering to use, and one evaluation beside another."""
