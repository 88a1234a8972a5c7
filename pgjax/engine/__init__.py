"""How training is made fast and spread over devices. Nothing here changes what is computed."""
