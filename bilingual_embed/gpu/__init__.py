"Everything about a graphics card at hand for a few minutes: what travels, what is checked and measured there."
