"""The parts of the check, one module each, with `checks(device)`."""
