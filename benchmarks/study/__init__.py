"""What methods are worth: many short trainings on one frozen model, chosen and scored on separate data."""
