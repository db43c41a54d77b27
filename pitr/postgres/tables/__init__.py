"""Tables as the catalog of one database has them: columns, keys, and all that guards their rows.

Import order inside the package:
    name, session → definition → reading → choosing; name, session → columns
"""
