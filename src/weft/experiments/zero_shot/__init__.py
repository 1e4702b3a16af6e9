"""What is a generated adapter worth: accuracy beside controls, cost, and steps of training saved."""
