"""Other packages' own classes over Pellucid, for programs that are not to be changed. Nothing else imports them."""
