"""See superset."""


class SupersetSecurityManager:
    """Knows what users may do; nobody is asked here."""

    is_item_public = get_public_permissions = get_public_role = None
    exist_permission_on_roles = user_view_menu_names = get_user_roles = None
