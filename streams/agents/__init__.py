"""The agents: Faust's loops around the folds and the intake. They make no decisions."""
