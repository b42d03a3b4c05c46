"""Shell: Faust's agents and what they stand on. No decisions."""
