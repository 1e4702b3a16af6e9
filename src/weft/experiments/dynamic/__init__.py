"""What do adapters gain by changing while the model runs?"""
