__all__ = ['ttypes', 'constants', 'Inventory', 'Payment', 'Shipping', 'Notifications']
