"""Human studies: people count objects in pictures, or rank several models' pictures of one prompt."""
