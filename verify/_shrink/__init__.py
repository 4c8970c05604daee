"""The smallest input on which a subject still fails as it does on a case, and a program that shows it."""
