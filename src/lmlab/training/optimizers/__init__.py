"""Update rules, which parameters each has, and how fast it goes."""
