"""Questions to a net, trained or not; each answer is a table, a picture and a JSON file."""
