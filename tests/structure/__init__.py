"""The structure of the code: which rooms there are and which imports run between them, measured from the code itself."""
