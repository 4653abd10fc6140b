"""The page: named arrays and the program that shows them, in one HTML file."""
