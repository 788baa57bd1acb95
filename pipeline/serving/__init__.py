"""An archive over HTTP: photos are restored as they are asked for."""
