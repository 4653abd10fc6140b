"""The page: named arrays and the program that shows them, in one file of HTML."""
