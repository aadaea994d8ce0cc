"""Networks of students and teachers."""
