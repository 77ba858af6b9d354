"""Who calls, and what they may do: identities, their proof, their rights, and what others may see of events.

Why     one decision point (`authorize.allowed`) that every call passes; a right that is checked in two places
        is soon checked in none.
"""
