"""Services: how many replicas there are, which of them answer, who may ask them."""
