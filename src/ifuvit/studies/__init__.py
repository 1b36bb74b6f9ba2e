"""Human studies: people count objects in images, or rank several models' images of one prompt."""
