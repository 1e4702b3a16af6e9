"""What several verbs share: flags, the model they speak with, tables on the screen."""
