"""Human studies: people count objects in images, or rank or rate several models' images."""
