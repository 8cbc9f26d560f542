"Free documentation, dictionaries and message catalogues out of Debian packages."
