"""Language models: where they come from (`source`, no torch), loading them cut off (`load`), reading them (`hooks`)."""
