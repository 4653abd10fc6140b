"""Other packages' classes on top of Pellucid, for programs that should stay unchanged. Nothing else imports them."""
